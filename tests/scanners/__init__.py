"""Stand-ins of image scanners, which no registry in reach has."""
