"""From words to a checked result: requests, stages, plans."""
