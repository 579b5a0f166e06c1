"""The ground every analysis stands on. Knows no analysis."""
