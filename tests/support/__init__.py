"""What tests share, and what the benches borrow from them."""
