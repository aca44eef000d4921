# The fixture's system, as a configuration that is none before its hardware has been described.
{
  inputs.rig.url = "path:@rig@";

  outputs = { self, rig }: let
    demo = rig.nixosConfigurations.demo;
    described = value:
      if @condition@ then value else throw "this is no description of hardware";
  in {
    nixosConfigurations.demo.config = demo.config // {
      system.build = builtins.mapAttrs (name: described) demo.config.system.build;
    };
  };
}
