"""
What is a policy worth, from logged data alone? Estimators with one face, a ranking, and a certificate.

Imports ``common`` and every room below it; no algorithm, and never the other way round.
"""

from sb3_offline.ope.behavior import Support, support_of
from sb3_offline.ope.certificate import Certificate, behavior_value, certify
from sb3_offline.ope.direct import DirectMean
from sb3_offline.ope.doubly_robust import DR
from sb3_offline.ope.estimate import Estimate, Estimator
from sb3_offline.ope.fqe import FQE
from sb3_offline.ope.importance import PDIS, PDWIS, WIS
from sb3_offline.ope.model_based import ModelBased
from sb3_offline.ope.ranking import Ranked, rank
from sb3_offline.ope.trust import doubts

__all__ = [
    "DR",
    "FQE",
    "PDIS",
    "PDWIS",
    "WIS",
    "Certificate",
    "DirectMean",
    "Estimate",
    "Estimator",
    "ModelBased",
    "Ranked",
    "Support",
    "behavior_value",
    "certify",
    "doubts",
    "rank",
    "support_of",
]
