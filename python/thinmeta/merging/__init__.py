"""What a volume has, put back into what it was made of."""
