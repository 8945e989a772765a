"""The `tes` command's parts. Knows TES as any server speaks it; must never import the server's own rooms (api, control, store, ...)."""
