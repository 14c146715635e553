"""All that people read of a run: terminal, Markdown, CSV, HTML, pictures. Records in, text out."""
