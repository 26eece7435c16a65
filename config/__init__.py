"""The composition root and the small foundation every room stands on."""
