import json

print(json.dumps({"wakeAgent": False}))
