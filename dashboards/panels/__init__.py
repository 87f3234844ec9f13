"""The dashboards: one module each, over ``kit``, which knows how a panel is drawn."""
