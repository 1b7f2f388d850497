"""Image quality metrics compared on the same images: scored, summarised with intervals and tests, and shown on a page."""
