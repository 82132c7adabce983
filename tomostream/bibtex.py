# SPDX-License-Identifier: GPL-3.0-or-later
"""
@article{Zheng2017,
  title = {{MotionCor2}: anisotropic correction of beam-induced motion for improved cryo-electron microscopy},
  author = {Zheng, Shawn Q. and Palovcak, Eugene and Armache, Jean-Paul and Verba, Kliment A. and Cheng, Yifan and Agard, David A.},
  journal = {Nature Methods}, volume = {14}, pages = {331--332}, year = {2017},
  doi = {https://doi.org/10.1038/nmeth.4193}
}

@article{Zheng2022,
  title = {{AreTomo}: An integrated software package for automated marker-free, motion-corrected cryo-electron tomographic alignment and reconstruction},
  author = {Zheng, Shawn and Wolff, Georg and Greenan, Garrett and Chen, Zhen and Faas, Frank G. A. and Barcena, Montserrat and Koster, Abraham J. and Cheng, Yifan and Agard, David A.},
  journal = {Journal of Structural Biology: X}, volume = {6}, pages = {100068}, year = {2022},
  doi = {https://doi.org/10.1016/j.yjsbx.2022.100068}
}

@article{Mastronarde2005,
  title = {Automated electron microscope tomography using robust prediction of specimen movements},
  author = {Mastronarde, David N.},
  journal = {Journal of Structural Biology}, volume = {152}, pages = {36--51}, year = {2005},
  doi = {https://doi.org/10.1016/j.jsb.2005.07.007}
}

@article{Hagen2017,
  title = {Implementation of a cryo-electron tomography tilt-scheme optimized for high resolution subtomogram averaging},
  author = {Hagen, Wim J. H. and Wan, William and Briggs, John A. G.},
  journal = {Journal of Structural Biology}, volume = {197}, pages = {191--198}, year = {2017},
  doi = {https://doi.org/10.1016/j.jsb.2016.06.007}
}

@article{Grant2015,
  title = {Measuring the optimal exposure for single particle cryo-{EM} using a 2.6 {\\AA} reconstruction of rotavirus {VP6}},
  author = {Grant, Timothy and Grigorieff, Nikolaus},
  journal = {eLife}, volume = {4}, pages = {e06980}, year = {2015},
  doi = {https://doi.org/10.7554/eLife.06980}
}
"""
