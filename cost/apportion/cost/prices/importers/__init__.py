"""Price lists of others, read by header and never by position: one module a source."""
