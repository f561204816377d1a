package l2test

import "github.com/soracache/soracache/l2/l2model"

// Model is the model of package l2model.
type Model = l2model.Model

// ModelConfig says how a [Model] is to behave.
type ModelConfig = l2model.Config

// NewModel returns an empty model.
func NewModel(config ModelConfig) *Model { return l2model.New(config) }
