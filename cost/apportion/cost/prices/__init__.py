"""Where prices come from: names of devices, importers, what owned hardware costs."""
