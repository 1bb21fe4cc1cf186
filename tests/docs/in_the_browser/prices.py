row = {"name": "bread", "cost": 2.5}
print("rows: 1", flush=True)
print(row["price"])
