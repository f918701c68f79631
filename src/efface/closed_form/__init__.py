"""The ridge solve in text space and what is built on it."""
