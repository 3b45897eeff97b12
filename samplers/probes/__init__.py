"""What-if forwards: versions of a row that are asked about beside the row itself."""
