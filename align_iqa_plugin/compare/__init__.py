"""The comparison of metrics: a store of scores, statistics of them, and a page that shows both."""
