import json

count = 3
print(f"{count} new issues since the last run")
print(json.dumps({"wakeAgent": count > 0, "context": {"new_issues": count}}))
