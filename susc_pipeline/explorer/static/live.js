// What a server with the model puts in place of this file: how long a text may be, and of how many corpus tokens it knows.
"use strict";
explorer.live = null;
