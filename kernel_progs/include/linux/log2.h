// Asked for by BCC's own prologue; nothing of it is needed here.
