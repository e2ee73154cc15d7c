"""vLLM's door: a stat logger that vLLM loads by itself once `apportion` is installed beside it."""
