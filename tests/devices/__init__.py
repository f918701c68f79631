"""A device that is not the processor, so that code for GPUs is tried where there is none."""
