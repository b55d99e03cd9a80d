class TinyPreTrainedModel: ...


class TinyForCausalLM: ...


x = ()
