"""Records and everything derived from them: statistics, tables, sentences. No torch."""
