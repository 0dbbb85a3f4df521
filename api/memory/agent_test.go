package memory_test

import (
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/seamtest"
)

func TestAgent(t *testing.T) {
	seamtest.Agent(t, func(*testing.T) api.Agent { return memory.NewAgent() })
}
