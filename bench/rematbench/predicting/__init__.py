"""Steps at sizes that are not run: which small sizes to run in their place, and when to believe what they tell."""
