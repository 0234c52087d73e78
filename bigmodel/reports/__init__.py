"""What runs say together: tables, verdicts and pictures, read from their directories alone."""
