"""Every private name of torch that is used here, each with what it is relied upon to do."""
