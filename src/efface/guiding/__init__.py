"""What guides of sampling share: their part in a run, the engine, pictures drawn with them."""
