"""What guides share: the run they steer, words in prompts, attention maps, updates of latents."""
