"""What can be measured on pictures, one file each; estimates turn scores into intervals."""
