"""The paper, for model cards."""

PAPER = {
    "title": "Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization",
    "id": "2605.11491",
    "citation": """\
@inproceedings{xu2026opefo,
    title     = {{Understanding and Preventing Entropy Collapse in RLVR with On-Policy Entropy Flow Optimization}},
    author    = {Xu, Huimin and Zhao, Shuai and Wu, Xiaobao and Luu, Anh Tuan},
    year      = 2026,
    booktitle = {Findings of the Association for Computational Linguistics: ACL 2026},
    pages     = {17759--17771},
    note      = {2026.findings-acl.879},
    eprint    = {arXiv:2605.11491},
}""",
}
