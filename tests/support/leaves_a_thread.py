"""A module whose import leaves a thread: a process that has imported it may not be forked."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
