"""What the whole of money needs: see each table's comment in `apportion.cost.ledger.schema`."""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Only adds: an agent of the first release goes on beside it."""


def downgrade() -> None:
    """Remove what was added."""
