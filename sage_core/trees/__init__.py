"""Token trees and the policies that shape them. numpy only: never a model, never torch."""
