"""Rows in the order of a code, in linear time."""

import numpy as np

from calrec.arrays.compiled import Int32, compiled


@compiled
def by_user(user: Int32, size: int) -> tuple[Int32, Int32]:
    """Rows in order of user, rows of one user as they came; and the rows of each of `size` users. Linear time."""
    length = np.zeros(size, np.int32)
    for code in user:
        length[code] += 1
    place, total = np.empty(size, np.int32), 0
    for code in range(size):
        place[code] = total
        total += length[code]
    order = np.empty(len(user), np.int32)
    for row in range(len(user)):
        order[place[user[row]]] = row
        place[user[row]] += 1
    return order, length
