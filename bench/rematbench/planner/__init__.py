"""The best placement for a budget: units profiled in a real step, solved, and accepted as measured."""
