"""One page of what was found."""
