"""Pictures of finished runs: one offline page, a plot for a paper, a plot for a terminal. No torch."""
