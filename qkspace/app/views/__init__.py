"""The views of the page, one module each. A view is built when it is first opened and kept from then on."""
