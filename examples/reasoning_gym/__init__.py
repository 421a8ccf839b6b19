"""Problems of reasoning-gym and their verifiers: see README.md."""
