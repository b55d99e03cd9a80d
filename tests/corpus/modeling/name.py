class TinyPreTrainedModel: ...


class TinyForCausalLM: ...


ﬁ = 1
fi = 2
