class TinyPreTrainedModel:
	x = 1
class TinyForCausalLM:
        x = 1
	y = 2
