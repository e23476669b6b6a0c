"""What the DETR methods of Tab. B, C and D share: inputs, encoder layers, the DAB decoder, losses.

One file per method in ``sdst.baselines`` has what differs: its encoder, its own losses, and the names of its official
weights. With those weights, outputs, losses and gradients are those of the official code for samples without padding.
With padding they differ where the official code lets padding reach results; here a sample has the same result alone
and in any batch.
"""
