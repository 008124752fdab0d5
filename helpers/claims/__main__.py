import sys

from helpers import ReaderError
from helpers.claims import check

try:
    print(check(*sys.argv[1:]))
except ReaderError as error:
    sys.exit(str(error))
