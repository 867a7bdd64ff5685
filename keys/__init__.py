"""Who is who: keys on disk, signatures, grants and what we believe now."""
