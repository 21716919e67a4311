"""Methods that follow ORCA, as a plug-in of orca-ray: RECRAFT, MoNA, PaRe, and joint
alignment after L2G.
"""

FROZEN_BODY = 0.7
"""Duration of an epoch with a frozen body, relative to an epoch that trains the body;
measured on the pocket tasks.
"""
