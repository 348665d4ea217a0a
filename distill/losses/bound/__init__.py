"""What `bind` makes of the losses that have parameters of their own: it imports torch, and their options do not."""
