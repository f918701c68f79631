"""What an edit is: patches, the delta of a model, its file, applying and taking off."""
