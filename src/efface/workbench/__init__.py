"""What every way of using efface shares: run folders, making, measuring, attacking, exporting."""
