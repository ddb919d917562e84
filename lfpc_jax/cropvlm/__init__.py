"""CropVLM: a crop network proposes a box, and a frozen target model answers with it in view."""
