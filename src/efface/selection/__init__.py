"""What searches for forget sets share: candidates, their sets, lower levels, projection."""
