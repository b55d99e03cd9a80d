class TinyPreTrainedModel:
    a = 1
    b = 2


class TinyForCausalLM:
    a = 1
    b = 2


import a
import b
